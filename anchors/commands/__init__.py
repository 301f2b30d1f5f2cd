"""The commands of `anchors`, a module a topic; each imports what it needs only when it runs."""
