// Package moto is AWS for tests: moto's server (EC2, STS, IAM) as a process of its own on loopback, and in
// front of it the Front, a proxy of ours. The Front
//   - keeps a log of every call: service, action, region;
//   - answers the EBS direct APIs by the stand-in of package ebsdirect, because moto's differ from AWS's
//     reference (see there), and keeps the content of volumes and snapshots that moto lacks;
//   - corrects moto where it differs from the reference: DescribeVolumes and DescribeSnapshots come in
//     pages; CreateSnapshots heeds ExcludeDataVolumeIds, and takes all at one instant; client tokens of
//     CreateVolume and RunInstances are heeded; CopySnapshot works across accounts, and only for whom a
//     snapshot is shared with; RegisterImage uses the snapshot that it is given, and guards it against deletion;
//     snapshots become ready after a while; a request that is signed minutes off is refused;
//   - refuses calls on demand, as AWS would: throttled, expired, not authorised.
//
// The Front's corrections are stand-ins for AWS too. What passes here has not been proven against AWS.
package moto
