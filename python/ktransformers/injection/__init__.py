"""How operators get into a Transformers model and run there. Needs torch and transformers.

    rules.py    rule file + modules of the model → which operator each module becomes
    weights.py  the weights behind the modules, read when something wants them as tensors
    cache.py    the Transformers cache over the engine's pages
    root.py     forward of the whole model: the native model in one go, or its modules one by one
"""
