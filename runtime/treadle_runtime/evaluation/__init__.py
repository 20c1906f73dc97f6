"""How good a model is: metrics and slices of its predictions, free baselines beside them, and the verdict of
gates.

    evaluate   predictions -> metrics on validation and test rows, intervals, slices
    baselines  what comes for free: a constant, the best single input, a linear model
    verdict    choose the best on validation, hold it against the gates on test rows
"""
