package conformance

import "slices"

// cases are all of them, in the order in which they run.
func cases() []trial {
	return slices.Concat(
		infoCases(), volumeCases(), matchCases(),
		snapshotCases(), readCases(), writeCases(),
		cloneCases(), fileCases(), machineCases(), cutCases(),
	)
}
