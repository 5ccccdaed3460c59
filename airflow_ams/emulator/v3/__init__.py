"""The dialects of Azure Media Services v3: ARM, which Ravnur RMS speaks as well, and MediaKind MK.IO.

Where no public source says what the services do, comments say so.
"""
