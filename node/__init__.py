"""The node: composition of ledger, consensus, p2p and storage with configuration, HTTP, command line and clusters.

The only package that may import all the others. Nothing is imported here, so that the command line starts at once.
"""
