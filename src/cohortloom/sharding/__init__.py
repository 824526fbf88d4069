"""Work cut into pieces whose bytes do not depend on who does them."""

from cohortloom.sharding.merge import merge
from cohortloom.sharding.plan import Shard, plan
from cohortloom.sharding.run import run

__all__ = ["Shard", "merge", "plan", "run"]
