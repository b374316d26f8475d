package rpc

// The calls' names in errors.
const (
	opInfo             = "ask provider"
	opConfigure        = "configure provider"
	opHealth           = "look at backend"
	opClose            = "close provider"
	opDiscover         = "discover volumes"
	opVolume           = "describe volume"
	opMatch            = "match volume"
	opBind             = "bind volume"
	opCreate           = "create volume"
	opDeleteVolume     = "delete volume"
	opSnapshot         = "snapshot volumes"
	opSnapshotOf       = "describe snapshot"
	opListSnapshots    = "list snapshots"
	opDeleteSnapshot   = "delete snapshot"
	opCopySnapshot     = "copy snapshot"
	opExtents          = "list extents"
	opRead             = "read blocks"
	opWrite            = "write blocks"
	opAttach           = "attach volume"
	opDetach           = "detach volume"
	opChanges          = "list changed files"
	opDiscoverMachines = "discover machines"
	opCreateMachine    = "create machine"
	opDeleteMachine    = "delete machine"
)
