"""Training networks to segment images, and looking at what they learnt.

Imports run one way: `data` <- `input` <- `training` <- the programs and pictures in this folder.
"""
