"""NIfTI images and their sidecars: what a converter wrote into them beside the voxels is left out.

Why it exists: an image that was converted from DICOM still names the institution, the station and the time, in its
header, its extensions, its sidecar and its path.
"""
