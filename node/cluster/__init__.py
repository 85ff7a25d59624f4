"""Local clusters: layout, processes, link proxies, and the control socket.

`plan` is pure layout, `links` are TCP proxies with faults, `runner` owns the processes (`LocalCluster`), `control` lets
the command line talk to a runner in the background.
"""
