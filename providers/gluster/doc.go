// Package gluster captures and brings back GlusterFS volumes by their files.
//
// A pool is a set of peers that trust each other; each runs glusterd. A volume lies on bricks: folders on
// peers' filesystems. The pool is spoken to by the gluster command, run over SSH on the first peer that
// answers, and volumes are mounted on this host by FUSE.
//
// A live volume changes while it is read. Where all its bricks are on thin-provisioned LVM it can be
// snapshotted instead. Which folders have changed between two attachments is read from the bricks'
// changelogs, the same records that glusterfind reads.
package gluster
