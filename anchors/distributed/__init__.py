"""The same work on a Ray cluster: every worker holds a replica of the model, the driver cuts the work and owns the store.

1. A unit is a slice of rollouts from neighbouring boundaries, a trace to score by one method, or a trace to read.
2. A worker is an actor with its share of CPUs and GPUs. Nobody waits for all of them: units go to those that are there, two
   each at most, and workers that join later take the next ones.
3. Slices grow with the speed they are drawn at and shrink towards the end, so that workers end together.
4. A unit whose worker or node is lost goes out again; one whose model fails `tries` times raises what the model raised.
   A unit is with one worker at a time and its result is taken once: nothing is lost, nothing doubled.
5. A rollout depends on (seed, trace, position, sample) only, so neither cuts nor order nor losses change what is stored.
"""

from anchors.distributed.cluster import Cluster
from anchors.distributed.model import RayModel

__all__ = ["Cluster", "RayModel"]
