"""Which variants a study runs: pure functions from factors to a list of variants.

`factors` (what varies, and what advances together) and `exclusions` (what is left out) are what every design is given;
`base` is what it is asked and answers. One file per design, each an option in `conf/design`: `factorial`, `one_factor`,
`leave_one_out`, `cumulative` and `pairwise` combine levels (`combined` is what they share; `covering` and `admissible`
do the work of `pairwise`), `explicit` takes the variants as they are listed,
and `steps` as a list of changes.
"""

from ablab.study.designs.base import Design, Designed
from ablab.study.designs.combined import Cumulative, Factorial, LeaveOneOut, OneFactor
from ablab.study.designs.explicit import Explicit, Steps
from ablab.study.designs.factors import Exclusions, Factor, Level, Variant, zip_factors
from ablab.study.designs.pairwise import Pairwise

__all__ = [
    "Cumulative",
    "Design",
    "Designed",
    "Exclusions",
    "Explicit",
    "Factor",
    "Factorial",
    "LeaveOneOut",
    "Level",
    "OneFactor",
    "Pairwise",
    "Steps",
    "Variant",
    "zip_factors",
]
