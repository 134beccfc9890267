// SPDX-License-Identifier: Apache-2.0

package container

import (
	"sync"
	_ "unsafe" // for go:linkname

	"github.com/coreos/go-systemd/v22/dbus"
	_ "github.com/opencontainers/cgroups/systemd" // holds the connections
)

// The systemd cgroup driver connects to the system bus, twice, when it is first
// used, and has no way to close the connections: they are a variable of its
// package. A bus takes 256 connections of a user, and a node has a daemon for
// every pod. Closed, they are opened again when they are needed.

//go:linkname busConnection github.com/opencontainers/cgroups/systemd.dbusC
var busConnection *dbus.Conn

//go:linkname busLock github.com/opencontainers/cgroups/systemd.dbusMu
var busLock sync.RWMutex

var bus struct {
	sync.Mutex
	users int // guarded by Mutex
}

// useBus must be called before the driver is used in a way that may need the
// bus, and what it returns afterwards: the last one who is done closes the
// connections. systemd says whether that is the driver.
func useBus(systemd bool) (done func()) {
	if !systemd {
		return func() {}
	}
	bus.Lock()
	defer bus.Unlock()
	bus.users++
	return func() {
		bus.Lock()
		defer bus.Unlock()
		if bus.users--; bus.users > 0 {
			return
		}
		busLock.Lock()
		defer busLock.Unlock()
		if busConnection != nil {
			busConnection.Close()
			busConnection = nil
		}
	}
}
