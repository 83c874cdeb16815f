"""Wrong input: generated calls, damaged results directories, modules of many kinds."""
