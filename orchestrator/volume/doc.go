// Package volume moves the content of volumes between storage backends and the repository.
//
// A backend is a storage of the inventory with its provider. A claimed volume is a PersistentVolume of the
// cluster, the claim it is bound to, and the backend's volume behind it. A group is the volumes that are
// captured at one instant, or as near to it as their backends can. Quiescing asks the programs that
// write to a volume to hold still for a bounded time.
package volume
