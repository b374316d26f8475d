// Package testenv is the lab: real kubeadm clusters on one Linux machine, without a container
// engine on the host and without images from a registry.
//
// A lab is one region: a bridge with its own /24 and the machines on it. A machine has its own root
// filesystem (an overlay over a debootstrap of Debian 12), network, processes, host name, IPC and
// cgroup root, its own sshd, containerd and disks. Destroying a machine ends its processes and
// deletes its root filesystem and disks: what was on it is gone.
//
// Every name of a kernel object (bridge, network namespace, cgroup, loop device) derives from
// files that are written before the object is made, so that Down after a crash finds them all.
// Mounts need no such care: they live in the machine's mount namespace and end with it.
//
// Stand-ins, named as such: `systemctl` on the machines, which have no systemd; the image store,
// whose images every machine holds from its start, for a registry; and the machines' route loop,
// which tells every machine where the others' pods are, for a network plugin.
package testenv
