"""Looking into a stranger's files, in confined child processes: `calls` starts them, the `…_child` modules run in them.

Nothing is imported here, so that a child starts with little more than what it needs.
"""
