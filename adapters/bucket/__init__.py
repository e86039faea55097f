"""Artifacts in a bucket of an S3-compatible store, so that several machines share one ledger.

    <prefix>files/<file id>
    <prefix>versions/<digest>/<name>…   one adapter directory, and
    <prefix>versions/<digest>.index     name, size and SHA-256 of each of its files; written last
    <prefix>states/<job id>/<step>-<digest>/…, ….index
    <prefix>parts/<part id>
    <prefix>ledger                      whose all this is

The digest of a directory is that of its index. So an index proves itself, its presence says that the directory is
whole, and it proves every file. Each machine has a cache, where the bytes become paths.
"""
