// SPDX-License-Identifier: Apache-2.0

// The guest of the demo: an ordinary Go program, compiled to WebAssembly.
package main

import (
	"fmt"
	"os"
	"runtime"
	"strings"
)

func main() {
	fmt.Printf("Hello from Go on %s/%s, in a container.\n", runtime.GOOS, runtime.GOARCH)
	fmt.Printf("My arguments: %s\n", strings.Join(os.Args[1:], " "))
	fmt.Printf("GREETING is %q.\n", os.Getenv("GREETING"))
	motd, err := os.ReadFile("/etc/motd")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Printf("My image's /etc/motd says: %s", motd)
}
