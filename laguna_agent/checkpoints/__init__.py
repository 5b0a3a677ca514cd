"""Checkpoints: the files of a workspace as they were before and after a prompt, kept outside it, and put back.

What is kept is a tree of git objects in a repository of our own (`store`), made by looking at the disk (`scan`); what
an undo puts back, and what of it is the person's own work, is decided in `plan`; `restore` then writes it. No git runs:
the object database is gitdb's, in this process, so no configuration, hook, filter or attribute of anybody counts.

Knows directories, bytes and trees; must not know sessions, prompts or the model.
"""
