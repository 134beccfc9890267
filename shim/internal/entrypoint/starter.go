// SPDX-License-Identifier: Apache-2.0

package entrypoint

import (
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// starters are programs that execute others: shells, and what is the first
// process of many images.
var starters = []string{
	"sh", "ash", "bash", "busybox", "dash", "ksh", "zsh",
	"tini", "tini-static", "dumb-init", "catatonit", "docker-init", "env", "exec", "su-exec", "gosu", "nice", "timeout",
}

// maxWords is how many words of a program's arguments are looked at.
const maxWords = 64

// startsGuest returns the guest that a shell, an init or a script is to start,
// as its arguments say; empty if there is none. None of them can: the kernel
// executes no WebAssembly. It is looked for in the root file system alone: for a
// warning nobody waits for a volume.
func startsGuest(v *view, p *specs.Process, program string, script bool) string {
	if !script && !slices.Contains(starters, path.Base(program)) {
		return ""
	}
	v.rootOnly = true
	looked := 0
	for _, arg := range p.Args[1:] {
		// The text after a shell's -c.
		for _, word := range strings.FieldsFunc(arg, func(r rune) bool { return strings.ContainsRune(" \t\n;&|()\"'`", r) }) {
			if looked++; looked > maxWords {
				return ""
			}
			if strings.HasPrefix(word, "-") || !strings.Contains(word, "/") && !strings.Contains(word, ".") {
				continue
			}
			e, err := inspect(v, abs(word, p.Cwd))
			e.close()
			if err == nil && e.Kind&(Module|Component) != 0 {
				return e.Path
			}
		}
	}
	return ""
}
