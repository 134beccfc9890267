// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/anypb"
)

// configURL is the type of what CRI hands on of a pod.
const configURL = "runtime.v1.PodSandboxConfig"

// nobody is the user of the usual pause image.
const nobody = 65535

// config is what a pod's sandbox is made of.
type config struct {
	files                         bool // CRI asks, and its containers have hostname, hosts, resolv.conf and /dev/shm of the pod
	hostname                      string
	dns                           *dns // nil is the host's
	cgroupParent                  string
	sysctls                       []sysctl
	network                       string // path of the namespace, "" for the host's
	hostNetwork, hostPID, hostIPC bool
	uids, gids                    *mapping // of a namespace of users; nil without one
	uid, gid                      int64    // of the waiting process
}

type dns struct{ servers, searches, options []string }

// mapping is a range of users of a pod's namespace, and where on the host it is.
type mapping struct{ host, container, size uint64 }

// The modes of a namespace.
const (
	modePod  = 0
	modeNode = 2
)

func nameOfMode(mode uint64) string {
	if mode > 3 {
		return fmt.Sprint(mode)
	}
	return [...]string{"POD", "CONTAINER", "NODE", "TARGET"}[mode]
}

func invalid(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, errdefs.ErrInvalidArgument)...)
}

// parseConfig reads a request's options. A client that is not CRI has none: its pod has
// namespaces of its own, and the network that it names, if it does.
func parseConfig(options *anypb.Any, network string) (*config, error) {
	c := &config{network: network, uid: nobody, gid: nobody}
	if options == nil || options.TypeUrl == "" {
		c.hostNetwork = network == ""
		return c, nil
	}
	if name := options.TypeUrl[strings.LastIndexByte(options.TypeUrl, '/')+1:]; name != configURL {
		return nil, invalid("the sandbox's options are %s; accepted: %s, CRI's configuration of a pod", name, configURL)
	}
	c.files = true
	r := reading{config: c, sysctls: map[string]string{}}
	if err := r.pod(options.Value); err != nil {
		return nil, fmt.Errorf("read the pod's configuration: %w", err)
	}
	return c, r.complete()
}

// reading reads the configuration's own encoding. The types that Kubernetes generates
// for it would cost every daemon as much memory as a pod may have.
type reading struct {
	*config
	sysctls  map[string]string
	userMode uint64
	hasUsers bool
	uidMaps  []*mapping
	gidMaps  []*mapping
}

func (r *reading) pod(b []byte) error {
	return each(b, func(n protowire.Number, v value) error {
		switch n {
		case 2:
			r.hostname = v.text()
		case 4:
			r.dns = &dns{}
			return r.dns.read(v.bytes)
		case 8:
			return r.linux(v.bytes)
		}
		return nil
	})
}

func (d *dns) read(b []byte) error {
	return each(b, func(n protowire.Number, v value) error {
		switch n {
		case 1:
			d.servers = append(d.servers, v.text())
		case 2:
			d.searches = append(d.searches, v.text())
		case 3:
			d.options = append(d.options, v.text())
		}
		return nil
	})
}

func (r *reading) linux(b []byte) error {
	return each(b, func(n protowire.Number, v value) error {
		switch n {
		case 1:
			r.cgroupParent = v.text()
		case 2:
			return r.security(v.bytes)
		case 3:
			entry := [3]string{}
			err := each(v.bytes, func(n protowire.Number, v value) error { entry[min(n, 3)-1] = v.text(); return nil })
			r.sysctls[entry[0]] = entry[1]
			return err
		}
		return nil
	})
}

func (r *reading) security(b []byte) error {
	return each(b, func(n protowire.Number, v value) error {
		switch n {
		case 1:
			return each(v.bytes, r.namespace)
		case 3:
			return number(v.bytes, &r.uid)
		case 8:
			return number(v.bytes, &r.gid)
		}
		return nil
	})
}

// number reads a message that is there for a number, 0 if it says none.
func number(b []byte, to *int64) error {
	*to = 0
	return each(b, func(_ protowire.Number, v value) error { *to = int64(v.number); return nil })
}

func (r *reading) namespace(n protowire.Number, v value) error {
	switch n {
	case 1:
		r.hostNetwork = v.number == modeNode
	case 2:
		r.hostPID = v.number == modeNode
	case 3:
		r.hostIPC = v.number == modeNode
	case 5:
		r.hasUsers = true
		return each(v.bytes, r.users)
	}
	return nil
}

func (r *reading) users(n protowire.Number, v value) error {
	switch n {
	case 1:
		r.userMode = v.number
	case 2:
		return readMapping(v.bytes, &r.uidMaps)
	case 3:
		return readMapping(v.bytes, &r.gidMaps)
	}
	return nil
}

func readMapping(b []byte, to *[]*mapping) error {
	m := &mapping{}
	*to = append(*to, m)
	return each(b, func(n protowire.Number, v value) error {
		switch n {
		case 1:
			m.host = v.number
		case 2:
			m.container = v.number
		case 3:
			m.size = v.number
		}
		return nil
	})
}

// complete checks what was read, and adds what CRI adds for a pause container.
func (r *reading) complete() error {
	switch {
	case r.hostNetwork:
		r.network = ""
	case r.network == "":
		return invalid("the pod has a network of its own, and the request names no netns_path")
	}
	if err := r.completeUsers(); err != nil {
		return err
	}
	for name, value := range r.sysctls {
		if strings.Contains(name+value, "\x00") {
			return invalid("sysctl %q=%q has a NUL byte", name, value)
		}
	}
	// As containerd's enable_unprivileged_ports and enable_unprivileged_icmp have it by
	// default; what is set there is not handed on.
	if !r.hostNetwork {
		r.unless("net.ipv4.ip_unprivileged_port_start", "0")
		if r.uids == nil {
			r.unless("net.ipv4.ping_group_range", "0 2147483647")
		}
	}
	r.config.sysctls = sortSysctls(r.sysctls)
	return nil
}

func (r *reading) unless(name, value string) {
	if _, ok := r.sysctls[name]; !ok {
		r.sysctls[name] = value
	}
}

func (r *reading) completeUsers() error {
	if !r.hasUsers {
		return nil
	}
	mappings := len(r.uidMaps) + len(r.gidMaps)
	switch {
	case r.userMode == modeNode && mappings == 0:
		return nil
	case r.userMode == modeNode:
		return invalid("the pod has the host's users (mode NODE), and %d mappings of users", mappings)
	case r.userMode != modePod:
		return invalid("user namespace mode %s; accepted: POD, NODE", nameOfMode(r.userMode))
	case len(r.uidMaps) != 1 || len(r.gidMaps) != 1:
		return invalid("a namespace of users with %d mappings of users and %d of groups; accepted: one of each", len(r.uidMaps), len(r.gidMaps))
	}
	for _, m := range []*mapping{r.uidMaps[0], r.gidMaps[0]} {
		if m.container != 0 || m.size == 0 {
			return invalid("a mapping of %d ids from %d; accepted: one that begins with 0, root of the pod", m.size, m.container)
		}
	}
	r.uids, r.gids = r.uidMaps[0], r.gidMaps[0]
	return nil
}

// value is what a field of a message has: a number, or bytes.
type value struct {
	number uint64
	bytes  []byte
}

func (v value) text() string { return string(v.bytes) }

// each goes through a message's fields.
func each(b []byte, field func(protowire.Number, value) error) error {
	for len(b) > 0 {
		number, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return invalid("%v", protowire.ParseError(n))
		}
		b = b[n:]
		var v value
		switch kind {
		case protowire.VarintType:
			v.number, n = protowire.ConsumeVarint(b)
		case protowire.BytesType:
			v.bytes, n = protowire.ConsumeBytes(b)
		default:
			n = protowire.ConsumeFieldValue(number, kind, b)
		}
		if n < 0 {
			return invalid("%v", protowire.ParseError(n))
		}
		b = b[n:]
		if err := field(number, v); err != nil {
			return err
		}
	}
	return nil
}
