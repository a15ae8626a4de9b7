"""The frequency view: spectra of images and of a network's stages, and how near they are.

It is *inspired by* a paper on frequency alignment of which only the abstract is known. What is
measured here, how it is compared and how sizes are searched is this project's own definition;
``docs/frequency.md`` states it. Nothing of it is confirmed to be the paper's method.
"""

#: Stands in every output, so that no figure is taken for the paper's.
NOTE = (
    'inspired by a paper on frequency alignment of which only the abstract is known; the definitions '
    'are those of docs/frequency.md and not confirmed to be the method of the paper'
)
