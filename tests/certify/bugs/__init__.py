"""Components that are wrong in the ways in which published ones were, and, in `decoys`, odd ones that are right."""
