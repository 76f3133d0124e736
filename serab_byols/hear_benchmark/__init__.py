"""HEAR 2021 beside its own kit: task folders, the evaluation protocol, and the rules of the common API."""
