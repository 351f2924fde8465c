"""The layouts of datasets on disk: one module per layout, named by `data.layout`, with `read(files, data) -> Contents`.

`read` raises LayoutMismatch if the files are not in its layout, RecipeError if they are, but contradict themselves.
"""
