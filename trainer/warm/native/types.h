/* A kernel for each type of number, REAL, with the products that it is made of. */
#define REAL float
#define OF(name) JOIN(name, _float32)
#define WHOLE_LANES LANES_OF_FLOAT
#define HALF_LANES LANES_OF_DOUBLE
#include "product.h"
#include "turned.h"
#include KERNEL
#undef REAL
#undef OF
#undef WHOLE_LANES
#undef HALF_LANES

#define REAL double
#define OF(name) JOIN(name, _float64)
#define WHOLE_LANES LANES_OF_DOUBLE
#define HALF_LANES HALF_LANES_OF_DOUBLE
#include "product.h"
#include "turned.h"
#include KERNEL
