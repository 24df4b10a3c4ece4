"""Stub replaced below."""
def write_report(*a, **k): pass
