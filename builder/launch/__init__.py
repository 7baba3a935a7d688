"""Launch files of training images: the `[launch]` section of targets, jobs, and a renderer for each service.

Pure: knows neither engine nor cluster, reads no files and runs no programs.
"""
