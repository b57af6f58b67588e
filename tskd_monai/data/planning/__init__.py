"""From a datalist to a task, and what tells a later call that the data or the options have changed.

- `rules`: `plan_task`, the rule for each field of the task: image size, pixel spacing, slice axis, intensities, class
  frequencies, connected components.
- `fingerprint`: what the rules know of each image and label, read once and as strictly as training reads it.
- `record`: what a task was planned from, and the comparison with what is there now.
- `files`: the files of a plan: the task, and beside the datalist its record.
"""
