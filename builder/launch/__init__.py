"""Launch files of training images: the `[launch]` section of targets, jobs, and a renderer for each service.

Pure: accesses neither the engine nor a cluster, reads no files and runs no programs.
"""
