"""Search at test time: strategies over `propose` and `value`, which know no model, no decoder and no task."""
