// SPDX-License-Identifier: Apache-2.0

// Command try hides what its first arguments name, and says which of those
// behind "--" can be opened then. cabi/testdata/sandbox.c does the same.
package main

import (
	"fmt"
	"os"
	"runtime"
	"slices"

	"github.com/libwasmshim/libwasmshim/shim/internal/landlock"
)

func main() {
	runtime.LockOSThread()
	at := slices.Index(os.Args, "--")
	if err := landlock.Hide(os.Args[1:at]); err != nil {
		fmt.Println("cannot hide:", err)
	}
	for _, path := range os.Args[at+1:] {
		f, err := os.Open(path)
		if err != nil {
			fmt.Println(path, "no")
			continue
		}
		fmt.Println(path, "yes")
		f.Close()
	}
}
