"""The axis `task`: what is learned, and by which figure it is judged.

`base` says what a task is, `language` is next-token prediction over any corpus, `text` holds its options. `corpus`
reads and splits files, `tokenizers` turns text into ids, `windows` cuts ids into batches.
"""
