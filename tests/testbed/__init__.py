"""Real services for the tests, each started on free ports in a folder of the test's own.

``environments`` makes and keeps the virtual environments that they live in, ``processes`` starts
and stops them, ``agent`` is the monasca-agent of a node, ``cloud`` the stand-in for what is behind
it, ``judge`` the agent's own parser, asked about datagrams.
"""
