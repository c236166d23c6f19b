"""The plan for a corpus of the size of the internet: measured rates, a published crawl, a simulated cluster.

The way of a number: the records of a committed run (`measured`) -> work for so many units of a crawl (`workload`) ->
time on a cluster, by simulation (`cluster`, on the resources of `events`) and by the bound of each limit (`limits`) ->
hours, bytes and money (`plan`), printed (`printing`). Nothing is run but, where it is asked for, the small pipeline
that is measured.
"""
