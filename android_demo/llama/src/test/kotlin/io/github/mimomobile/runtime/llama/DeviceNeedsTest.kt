package io.github.mimomobile.runtime.llama

import org.junit.Assert.assertEquals
import org.junit.Assert.assertNull
import org.junit.Test

/** Which devices and models are told that Android's llama.cpp is not for them. */
class DeviceNeedsTest {
    private val cortexA53 = 0x8fbL
    private val cortexA76 = 0x119ffbL

    @Test
    fun `Android 11 on a CPU since 2018 has all that is needed`() = assertNull(DeviceNeeds.missing(30, cortexA76))

    @Test
    fun `an older Android lacks the unwinder`() = assertEquals(
        "llama.cpp needs Android 11 (API level 30), this is API level 29; use an ONNX model",
        DeviceNeeds.missing(29, cortexA76),
    )

    @Test
    fun `an older CPU lacks instructions`() {
        val message = "llama.cpp needs a CPU of Cortex-A55's generation or newer (atomics, lrcpc); use an ONNX model"
        for (hwcap in listOf(cortexA53, cortexA76 and (1L shl 15).inv(), cortexA76 and (1L shl 8).inv())) {
            assertEquals(message, DeviceNeeds.missing(34, hwcap))
        }
    }

    @Test
    fun `a trunk whose biases would be left out is refused, not one alone nor the MTP layer beside it`() {
        val trunk = GgufModel("qwen2", 2, 0, true, 64, 96, 4, 2, 16, 100, 512, null)
        assertNull(DeviceNeeds.miscomputed(trunk))
        assertNull(DeviceNeeds.miscomputed(trunk.copy(architecture = "step35", mtpLayers = 1, hasTrunk = false)))
        assertEquals(
            "trunk and MTP layer in one file are not for Android; make two files, without --single-file",
            DeviceNeeds.miscomputed(trunk.copy(architecture = "step35", mtpLayers = 1)),
        )
    }
}
