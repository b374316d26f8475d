// Package ebsdirect is a stand-in for the EBS direct APIs of AWS: a server of ours that holds the content of
// volumes and snapshots in memory and speaks the wire of AWS's API reference. It is not AWS, and nobody at
// AWS has seen it; what passes against it has not been proven against AWS.
//
// It exists because moto's EBS direct differs from the reference: its lists are not paged, its blocks are
// said to have 512 bytes where AWS has 512 KiB, ListChangedBlocks knows only blocks of the first snapshot, no
// checksum is verified, block tokens are neither asked for nor do they expire, and snapshots of volumes are
// empty because volumes hold no data. Here
//   - lists come in pages (NextToken), which may be shorter than MaxResults and even empty;
//   - a block has 512 KiB, and a token that expires and is good for one block of one snapshot;
//   - a snapshot can be read once it is completed, not before;
//   - checksums of blocks and of the whole snapshot, and the count of its blocks, are verified;
//   - snapshots without a common lineage cannot be compared;
//   - a client token names one snapshot, and a different request with it is a ConflictException.
//
// EC2's side (who is described as what) is somebody else's: package moto puts both together.
package ebsdirect
