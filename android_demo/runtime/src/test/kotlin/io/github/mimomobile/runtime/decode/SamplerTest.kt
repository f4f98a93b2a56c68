package io.github.mimomobile.runtime.decode

import io.github.mimomobile.runtime.golden
import org.junit.Assert.assertEquals
import org.junit.Assert.assertThrows
import org.junit.Test

class SamplerTest {
    @Test
    fun `one random number gives the token that it gives in Python`() {
        for (case in golden("sampling")) {
            val (temperature, topP, minP) = listOf("temperature", "top_p", "min_p").map(case::double)
            val sampler = Sampler(temperature, case.int("top_k"), topP, minP)
            val logits = case.doubles("logits").map { it.toFloat() }.toFloatArray()
            val tokens = case.doubles("uniforms").map { sampler.sample(logits, logits.size, it) }
            assertEquals(case.toString(), case.ints("tokens"), tokens)
        }
    }

    @Test
    fun `what is beyond the size never comes out`() {
        val logits = floatArrayOf(1f, 2f, 9f)
        assertEquals(1, Sampler(0.0).sample(logits, 2, 0.5))
        assertEquals(listOf(1, 1, 0), listOf(0.0, 0.7, 0.99).map { Sampler(1.0).sample(logits, 2, it) })
    }

    @Test
    fun `zeros of both signs are equal`() {
        val logits = floatArrayOf(-99f, -0f, 0f, -99f)
        assertEquals(listOf(1, 1, 2, 2), listOf(0.0, 0.49, 0.51, 0.999).map { Sampler(1.0).sample(logits, 4, it) })
    }

    @Test
    fun `NaN and infinity anywhere are an error, and what is beyond the size is not looked at`() {
        for (bad in listOf(Float.NaN, -Float.NaN, Float.POSITIVE_INFINITY, Float.NEGATIVE_INFINITY)) {
            for (place in 0..2) {
                val logits = floatArrayOf(1f, -Float.MAX_VALUE, Float.MAX_VALUE).also { it[place] = bad }
                for (temperature in listOf(0.0, 0.7)) {
                    assertThrows(NotFinite::class.java) { Sampler(temperature).sample(logits, 3, 0.5) }
                    if (place == 2) assertEquals(0, Sampler(temperature).sample(logits, 2, 0.5))
                }
            }
        }
    }
}
