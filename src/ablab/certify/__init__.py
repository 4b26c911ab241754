"""Certificates: does a component keep what every option of its axis promises, before anything is trained with it?

    from ablab.certify import certify
    certificate = certify("my_module.MyAttention")
    certificate.passed, certificate.checks

`target` (from what a user names to one option), `subject` (small models of it, and inputs), `passes` (through these),
`checks` (a file for each topic), `certificate` (what was found), `run` (all of it in turn). `docs/verify.md` says what
each check catches.
"""

from ablab.certify.certificate import Certificate, Check, Outcome
from ablab.certify.run import certify, check_names

__all__ = ["Certificate", "Check", "Outcome", "certify", "check_names"]
