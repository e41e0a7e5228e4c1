"""How databases of earlier versions become this one's: a revision a change, written by hand, only ever forwards.

A test holds the sum of them to `schema.py`. A revision says what the tables were then, so it imports nothing of ours.
"""
