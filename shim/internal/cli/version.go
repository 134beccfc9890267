// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"
)

// Build is what this binary was built from.
type Build struct {
	Version  string // of the module that holds the main package; "(devel)" if it has none
	Revision string // of its repository; "unknown" if that was not recorded
	Modified bool   // the files differed from the revision
}

// ReadBuild reads what the Go linker has recorded.
func ReadBuild() Build {
	b := Build{Version: "(devel)", Revision: "unknown"}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	if info.Main.Version != "" {
		b.Version = info.Main.Version
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			b.Revision = s.Value
		case "vcs.modified":
			b.Modified = s.Value == "true"
		}
	}
	return b
}

// version is the answer to --version, in the form of containerd's own shims.
func (p Program) version() string {
	b := ReadBuild()
	if b.Modified {
		b.Revision += " (modified)"
	}
	text := fmt.Sprintf("%s:\n", p.name())
	for _, line := range [][2]string{
		{"Runtime", p.runtime()}, {"Engine", p.engine()}, {"Version", b.Version}, {"Revision", b.Revision}, {"ABI", p.ABI}, {"Go version", runtime.Version()},
	} {
		if line[1] != "" {
			text += fmt.Sprintf("  %-11s %s\n", line[0]+":", line[1])
		}
	}
	return text
}

func (p Program) engine() string {
	engine := strings.TrimSpace(p.Engine.Name + " " + p.EngineVersion)
	if p.EngineRevision != "" {
		engine += " (" + p.EngineRevision + ")"
	}
	return engine
}
