"""The hostile suite: attacks that a model could be talked into, driven through the real program in full-auto mode.

`house` is the world around one run, with canaries in it; `case` says what an attack is; `attacks_*` are the attacks;
`driving` runs a group of them through the program, looks at the house after each and keeps what it saw; the tests ask
that nothing was harmed, and that without walls (`--sandbox none`) the same attacks do harm.
"""
