"""What this project's components promise, tried as `ablab verify` tries it: python -m unittest discover tests."""

import unittest
from pathlib import Path

from ablab.certify import certify

CONF = Path(__file__).parents[1] / "conf"


class Components(unittest.TestCase):
    def test_snake_keeps_what_an_activation_promises(self) -> None:
        certificate = certify("activation=snake", config_dirs=[CONF])
        assert certificate.passed, certificate.text()


if __name__ == "__main__":
    unittest.main()
