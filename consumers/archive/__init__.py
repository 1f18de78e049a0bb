"""The archive: closed segments of what lay on the streams, in a folder or an object store."""
