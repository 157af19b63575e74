"""Captions of pictures and of single objects, written by a vision-language model.

    items (what may be captioned)  ─▶  requests (a picture or crop, and a template's words)  ─▶  a server, live or by
    batches, or a local model  ─▶  journal (what was asked and answered)  ─▶  answers checked  ─▶  prompts CSV or JSON

The journal is what makes it safe to stop: a request stands there before it is sent and an answer as soon as it came.
"""
