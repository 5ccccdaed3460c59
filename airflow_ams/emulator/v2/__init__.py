"""The dialect of Azure Media Services v2: OData version 3 over the emulator's jobs and assets."""
