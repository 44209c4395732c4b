// A driver that shows N devices without having any, for tests.
#include <stdio.h>
int cuInit(unsigned flags) { return INIT + (int)flags; }
int cuDeviceGetCount(int *n) { *n = N; return 0; }
int cuDeviceGetName(char *name, int n, int device) { return snprintf(name, n, "Device %d", device) < 0; }
