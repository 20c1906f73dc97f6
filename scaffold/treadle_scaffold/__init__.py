"""Files to start from: a project from a template or from a table of one's own, and pieces of a project.

template.init        a template -> a new project
from_data.init_from  a CSV or Parquet file and a label -> a new project about it
piece.new            a project -> one more feature, dataset, model, pipeline or test
"""
