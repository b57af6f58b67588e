"""Planning a task from a datalist, and comparison of a plan with changed data or options.

- `rules`: `plan_task`, with the rule for each field of the task: image size, pixel spacing, slice axis, intensities,
  class frequencies, connected components.
- `fingerprint`: properties of each image and label that the rules use, read once and as strictly as in training.
- `record`: the data and options of a plan, and their comparison with the current ones.
- `files`: the files of a plan: the task, and its record beside the datalist.
"""
