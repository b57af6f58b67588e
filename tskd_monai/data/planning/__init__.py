"""From a datalist to a task: fingerprints of its images, rules, and the record of what was planned."""
