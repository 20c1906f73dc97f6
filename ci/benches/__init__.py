"""What `ci/bench` measures, a module for each subject."""
